"""The processes of the closed loop: each a folder with pure logic, an app and an entry point."""
