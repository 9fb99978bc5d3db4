"""The products by name. No torch here, so that a command checks names before it loads a network."""

from __future__ import annotations

from collections.abc import Iterable

from arcticseg.errors import ConfigError
from arcticseg.products.geotiff import GeoTIFF
from arcticseg.products.map import Map
from arcticseg.products.netcdf import NetCDF
from arcticseg.products.product import Product

# What can be made of a drawn scene; a module from outside adds an entry of its own.
PRODUCTS: dict[str, Product] = {"netcdf": NetCDF(), "geotiff": GeoTIFF(), "map": Map()}

# What commands write unless told otherwise.
DEFAULT = ("netcdf", "geotiff", "map")


def choose(names: Iterable[str]) -> dict[str, Product]:
    """The products of these names, in this order.

    Raises:
        ConfigError: a name that is not in the table, no name, or two products that write files of the same name.
    """
    chosen: dict[str, Product] = {}
    extensions: dict[str, str] = {}
    for name in names:
        if name not in PRODUCTS:
            raise ConfigError(f"product '{name}' is unknown; name some of {', '.join(PRODUCTS)}")
        chosen[name] = PRODUCTS[name]
        other = extensions.setdefault(PRODUCTS[name].extension, name)
        if other != name:
            raise ConfigError(f"products '{other}' and '{name}' both write *{PRODUCTS[name].extension}; leave one out")
    if not chosen:
        raise ConfigError(f"no product is chosen; name some of {', '.join(PRODUCTS)}")
    return chosen
