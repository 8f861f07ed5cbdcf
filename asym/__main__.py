from asym.cli import app

app()
