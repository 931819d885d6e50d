"""Routes and dialects: one folder each. No dialect imports another, but `sagemaker`, which tells bodies apart."""
