"""What is measured on replies: functions of prompts and replies, each giving a `Figure`."""
