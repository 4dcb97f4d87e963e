"""What ``IlertSession`` and ``IlertAuth`` are made of."""
