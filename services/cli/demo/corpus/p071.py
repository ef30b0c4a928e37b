"""Administration page of the worker: pause and go on."""
import uvicorn
from fastapi import FastAPI

app = FastAPI()
state = {"paused": False}


@app.post("/pause")
def pause() -> dict[str, bool]:
    state["paused"] = True
    return state


@app.post("/resume")
def resume() -> dict[str, bool]:
    state["paused"] = False
    return state


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=9_001)
