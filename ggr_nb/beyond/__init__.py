"""Beyond the method: masks that connect, SNIP, the small dense rival."""
