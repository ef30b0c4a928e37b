"""Listen to the warehouse's messages."""
import json
import os

import pika


def connect() -> pika.BlockingConnection:
    login = pika.PlainCredentials(username="warehouse", password=os.environ["BROKER_PASSWORD"])
    return pika.BlockingConnection(pika.ConnectionParameters(host="broker.internal", credentials=login))


def listen(handle) -> None:
    channel = connect().channel()
    channel.basic_consume("stock", lambda c, m, p, body: handle(json.loads(body)), auto_ack=True)
    channel.start_consuming()
