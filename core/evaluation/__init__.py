"""What is done with a trained model: evaluate, predict, export, quantise, fine-tune."""
