"""What Immich does with people from 3.2 on, for all users of a cluster group at once.

A person is one user's view of a person group there, known by its owner and the group; some of what follows changes the
group of a view in place: no deletion and no audit row tell of it.
"""

from collections.abc import Callable
from uuid import UUID

from psycopg.rows import DictRow

from listener.standin.actor_people import PeopleActions
from listener.standin.actor_rows import delete, insert, update


class PersonGroups(PeopleActions):
    """Cluster groups and person groups (3.2+)."""

    def merge_groups(self, survivor: UUID, other: UUID, *, between: Callable[[], object] = lambda: None) -> None:
        """Merge one person into another for all users, owner by owner.

        One whose two people both have a name, or both a birth date, is left out; one who has no person in the surviving
        group gets theirs moved there in place. ``between`` is what happens between two owners.
        """
        for number, gone in enumerate(self.rows.where("person", personGroupId=other)):
            if number:
                between()
            owner = gone["ownerId"]
            kept = self.rows.where("person", personGroupId=survivor, ownerId=owner)
            if kept and any(kept[0][column] and gone[column] for column in ("name", "birthDate")):
                continue
            if kept:
                taken = {c: gone[c] for c in ("name", "birthDate") if gone[c]}
                self.rows.execute(update("person", {"ownerId": owner, "personGroupId": survivor, **taken}))
                self.rows.run("move_faces", survivor=survivor, gone=other, user=owner)
                self._delete_people([gone])
            else:
                self.rows.run("rekey_person", owner=owner, old=other, new=survivor)
                self.rows.run("move_faces", survivor=survivor, gone=other, user=owner)
        self.rows.run("drop_empty_person_groups")

    def join_cluster_group(self, user: UUID) -> None:
        """Join another user's cluster group, with all people; a group that nobody is in any more goes."""
        old = self._cluster_group(self.user_id)
        self._change_cluster_group(self._cluster_group(user))
        if not self.rows.where("user", clusterGroupId=old):
            self.rows.execute(delete("cluster_group", {"id": old}))

    def leave_cluster_group(self, *, between: Callable[[], object] = lambda: None) -> None:
        """Leave for a cluster group of one's own. ``between`` happens before the user's own row says so."""
        group = self.new_id()
        self.rows.execute(insert("cluster_group", {"id": group}))
        self._change_cluster_group(group, between)

    def regenerate_people(self) -> None:
        """Take all detected faces of the cluster group off their people, and clean up after everybody.

        Drawn faces stay. Recognition is still to come.
        """
        self.rows.run("reset_cluster_group", group=self._cluster_group(self.user_id))
        self._delete_people(self.rows.run("people_of_groups_without_faces"))

    def name_shared_person(self, person: UUID, name: str) -> None:
        """Name a person that others share with write access (3.3+): theirs are named, too."""
        self.name_person(person, name)
        for share in self.rows.where("person_user", personGroupId=person, sharedWithId=self.user_id):
            if share["role"] != "read":
                owner = {"ownerId": share["sharedById"], "personGroupId": person}
                self.rows.execute(update("person", {**owner, "name": name}))

    def _change_cluster_group(self, group: UUID, between: Callable[[], object] = lambda: None) -> None:
        """Take the user's people along: groups of theirs alone move, of shared ones they get new ones."""
        for row in self.people():
            person: UUID = row["person"]
            if self._is_shared(row):
                fresh = self.new_id()
                self.rows.execute(insert("person_group", {"id": fresh, "clusterGroupId": group}))
                self.rows.run("rekey_person", owner=self.user_id, old=person, new=fresh)
                self.rows.run("move_faces", survivor=fresh, gone=person, user=self.user_id)
            else:
                self.rows.execute(update("person_group", {"id": person, "clusterGroupId": group}))
        between()
        self.rows.execute(update("user", {"id": self.user_id, "clusterGroupId": group}))

    def _is_shared(self, row: DictRow) -> bool:
        return len(self.rows.where("person", personGroupId=row["person"])) > 1

    def _cluster_group(self, user: UUID) -> UUID:
        group: UUID = self.rows.the("user", id=user)["clusterGroupId"]
        return group
