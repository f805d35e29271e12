"""The database of `tests/database.py`."""

from tests.database import connection as connection
from tests.database import database_url as database_url
from tests.database import engine as engine
from tests.database import session as session
from tests.database import sessions as sessions
