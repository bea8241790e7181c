"""What other tools read: TensorBoard."""
