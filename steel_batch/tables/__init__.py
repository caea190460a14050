"""From staged shards to committed rows, and everything that reads or checks those rows."""
