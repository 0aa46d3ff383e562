"""The commands by name and in a line each, as the whole and the bare install list them."""

COMMANDS = {
    "up": "read the log into the database; serve SQL and metrics",
    "demo": "train on real images, kill a rank, see that nothing is lost",
    "runs": "list the runs",
    "show": "show everything about one run",
    "sql": "answer one SELECT",
    "verify": "print a run's receipt: sent, stored, missing",
    "edit": "change a run's name, group, tags or note",
    "delete": "delete runs: their data goes for good, their late rows too",
    "export": "write a run into Parquet, CSV or JSON files",
    "archive": "write runs into checked Parquet files, then delete them",
    "snapshot": "take a backup of the database; --list shows them",
    "restore": "put a backup in the place of the database",
    "doctor": "check home, store and log; say what is wrong and what to do",
    "dead-letters": "list what could not be stored; replay it, or give it up",
    "token": "make, list and revoke tokens for others",
    "login": "keep a token for a consumer elsewhere",
    "logout": "forget the token for a consumer",
    "bridge": "forward from an MQTT broker to Kafka or into a folder",
    "sync": "send what the dead left; --follow: what the living write",
}
