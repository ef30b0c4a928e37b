"""The guided demonstration: real input, real servers, and what happened, printed."""
