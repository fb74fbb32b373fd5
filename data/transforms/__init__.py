"""Changes of records between reading and the schema, by their names in `data.transforms`.

Each is a row of the registry in data/transforms/base.py. They are applied in the order of that
registry, whatever the order in the settings; the rows of a plugin come after the quoted replies and
before turns are merged.
"""
