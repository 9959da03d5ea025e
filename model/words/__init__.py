"""Words: captions as tokens, tokens as ids, and vectors of words."""
