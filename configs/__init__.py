"""The configs that are shipped: a run is one short YAML file."""
