"""From records to a pack: objects, the table that names them, the manifest, one shared library."""
