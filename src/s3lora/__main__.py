"""`python -m s3lora` is the command `s3lora`."""

from s3lora.cli import main

if __name__ == "__main__":
    main()
