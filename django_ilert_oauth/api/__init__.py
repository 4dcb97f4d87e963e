"""What ``IlertSession`` is made of. No Django."""
