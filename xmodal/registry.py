"""Names for things: one typed class serves losses, teachers, students, projections and schemes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from typing import Generic, TypeVar

from xmodal.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from a name to a function or class, filled by a decorator and by other packages.

    ``kind`` is the noun used in messages, ``home`` the module that registers our own entries, imported at the first
    look-up. Other packages add theirs through the entry-point group ``xmodal.<plural of kind>``, which is looked at
    only when a name is not found here.

    >>> greetings: Registry[type] = Registry("greeting")
    >>> @greetings.register("hello")
    ... class Hello: ...
    >>> greetings["hello"] is Hello, list(greetings)
    (True, ['hello'])
    """

    def __init__(self, kind: str, home: str | None = None) -> None:
        self.kind, self._home = kind, home
        self.group = f"xmodal.{kind}es" if kind.endswith("s") else f"xmodal.{kind}s"
        self._entries: dict[str, T] = {}
        self._looked_outside = False

    def register(self, name: str) -> Callable[[T], T]:
        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered already, as {self._entries[name]!r}")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        self._load_home()
        if name not in self._entries:
            self._load_entry_points()
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._load_home()
        if name not in self._entries:
            self._load_entry_points()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load_home()
        self._load_entry_points()
        return iter(sorted(self._entries))

    def _load_home(self) -> None:
        home, self._home = self._home, None
        if home is not None:
            try:
                import_module(home)
            except BaseException:
                self._home = home  # or the next look-up would know no names and not say why
                raise

    def _load_entry_points(self) -> None:
        if self._looked_outside:
            return
        self._looked_outside = True
        for entry_point in metadata.entry_points(group=self.group):
            if entry_point.name not in self._entries:
                loaded = entry_point.load()
                # loading a module whose decorator registers the name leaves nothing to do
                self._entries.setdefault(entry_point.name, loaded)
