"""The vendor's cloud API of consumer keys (cngw 2023-04-18, tse 2020-12-07) over the same use cases as REST."""
