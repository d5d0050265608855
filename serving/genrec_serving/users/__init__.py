"""What users did since the data set was made: appended events, and where they are kept."""
