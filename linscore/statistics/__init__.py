"""From sums over tokens to figures and maps: tensors in float64, no model, no text."""
