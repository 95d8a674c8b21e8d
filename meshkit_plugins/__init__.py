"""
The parts of a node, one module each.

Add a part by shipping C{meshkit_plugins/meshkit_yourname.py} in any distribution,
without an C{__init__.py} of your own.
"""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
__all__: list[str] = []
