"""What a copy is: its rows, its files, its people, and how it goes."""
