"""One module per data set format, and what they share: recognise, read, check, mend and write."""
