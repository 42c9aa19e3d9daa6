"""FastAPI: a dependency that returns a Session instead of yielding it; nobody closes after the response."""

# expect: kind=dropped library=sqlalchemy certain=yes count=3 healed=yes
# needs: fastapi httpx
# allow: orphaned
import gc
import os
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
SessionLocal = sessionmaker(engine)
app = FastAPI()


def get_session():
    return SessionLocal()


@app.get("/upper/{word}")
def upper(word: str, session: Annotated[Session, Depends(get_session)]):
    return {"word": session.execute(text("SELECT upper(:w)"), {"w": word}).scalar_one()}  # LEAK


def main():
    with TestClient(app) as client:
        for word in ("tea", "milk", "rice"):
            print(client.get(f"/upper/{word}").json())
    gc.collect()
    engine.dispose()


main()
