"""The laws of the streaming contract, and the certificate that says which of them a part keeps."""
