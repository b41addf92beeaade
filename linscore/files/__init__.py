"""Files and folders: whole or not there, gone on with, and read without trust."""
