"""Problems of an upload, collected until all of it has been looked at."""

import contextlib
from collections.abc import Iterator

from backend import errors


class Problems(list[str]):
    """Sentences, each saying what is wrong and what to do."""

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """A block whose `InvalidInputError` is kept as a problem; what follows the block goes on without its result."""
        try:
            yield
        except errors.InvalidInputError as error:
            self.append(str(error))
