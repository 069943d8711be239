"""How Immich's database is reached, asked before every connect: a password in a file may have changed."""

from listener import settings
from listener.ops import logs
from listener.settings import Settings
from listener.threads import SilentFolderError, lane_of, run

log = logs.get("address")

# As PostgreSQL and libpq say it; a server that speaks another language says it without our advice.
_WRONG_PASSWORD = ("password authentication failed", "no password supplied")


class Address:
    """The conninfo of now; holds the password: never log it."""

    def __init__(self, configured: Settings) -> None:
        self._settings = configured
        self._limited = logs.Limited(log)

    async def __call__(self) -> str:
        """Return the conninfo, with the password that its file holds now, or the last that it held."""
        try:
            with lane_of(str(self._settings.password_file)).used():
                now = await run(settings.with_password, self._settings)
        except (settings.SettingsError, SilentFolderError) as error:
            # Whoever changes the password may be writing it at this moment.
            self._limited.warning("the password cannot be read: the one from before is used", reason=str(error))
            return self._settings.conninfo
        if now.conninfo != self._settings.conninfo:
            logs.mask(settings.secrets(now))
            log.info("the password in its file is another one now")
            self._settings = now
        return now.conninfo

    def words(self, error: BaseException) -> str:
        """Return what went wrong in one line, and what to do where the password is refused."""
        text = str(error).strip()
        line = text.splitlines()[0] if text else type(error).__name__
        if not any(words in text for words in _WRONG_PASSWORD):
            return line
        if (file := self._settings.password_file) is not None:
            return f"{line}. Write the password into {file} (DB_PASSWORD_FILE): it is read before each try"
        return (
            f"{line}. Set DB_PASSWORD (or DB_URL) and start the listener anew: the environment of a running process "
            "cannot change. From DB_PASSWORD_FILE a password is read before each try"
        )
