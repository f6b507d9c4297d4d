"""SSM, KMS, COS and SCF-Invoke over loopback HTTP, for the official SDKs and tccli; never deployed."""
