"""All SQL: the tables, the transactions, and what is read and written in them."""
