"""The tenants of a site with a schema for each."""
