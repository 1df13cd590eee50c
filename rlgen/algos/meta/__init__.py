"""Update rules that are learned, and how they are learned."""
