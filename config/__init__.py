"""The YAML recipes: differences from the defaults only. They travel with the package."""
