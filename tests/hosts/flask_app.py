"""A Flask-SQLAlchemy application: its own tables and the feed, one transaction a request."""

import os
import random
import time
from functools import wraps

from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event

import recommender
from tests.hosts import mirror

TRIES = 5
# A transaction writes unless a view says otherwise: on SQLite it begins with BEGIN IMMEDIATE.
WRITES = {"execution_options": {"recommender_write": True}}
db = SQLAlchemy(model_class=mirror.Base, engine_options=WRITES)
event.listen(db.session, "after_flush", mirror.after_flush)
app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
db.init_app(app)
with app.app_context():
    recommender.prepare_engine(db.engine)


def transaction(view):
    """Commit after a view, and run it again after a conflict with another transaction."""

    @wraps(view)
    def run(**arguments):
        tried = 0
        while True:
            try:
                with recommender.translate_errors():
                    answer = view(**arguments)
                    db.session.commit()
                    return answer
            except recommender.DatabaseBusy:
                db.session.rollback()
                tried += 1
                if tried == TRIES:
                    raise
            time.sleep(random.uniform(0, 0.1 * 4**tried))

    return run


@app.errorhandler(recommender.NotFound)
def not_found(error):
    return {"detail": str(error)}, 404


@app.post("/users")
@transaction
def add_user():
    db.session.add(user := mirror.User(language=request.form["language"]))
    db.session.flush()  # this mirrors the user
    return {"id": user.id}


@app.post("/events/<key>")
@transaction
def record(key):
    recommender.record(db.session, key=key, **request.form)
    return {}


@app.get("/feed/<user>")
@transaction
def feed(user):
    page = recommender.for_you(db.session, user, cursor=request.args.get("cursor"))
    return page.as_dict()


@app.get("/trending")
def trending():
    # The option counts before the first statement: this transaction only reads.
    db.session.connection(execution_options={"recommender_write": False})
    return recommender.trending(db.session).as_dict()
