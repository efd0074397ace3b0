"""Tables of papers from finished jobs: which jobs a table has, claims, rendering."""
