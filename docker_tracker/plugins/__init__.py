"""The interceptors, one in a file. Other packages add theirs with a folder of this name and no ``__init__.py``."""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))  # type: ignore[no-untyped-call]
__all__: list[str] = []
