"""Tasks of one's own: YAML files."""
