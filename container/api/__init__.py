"""Routes and dialects, one folder each. No dialect imports another, except `sagemaker`, which tells bodies apart."""
