"""LiveKit's realtime plugin pointed at a base_url: python livekit_realtime.py URL TOKEN SOUND PICTURE

sends a file of PCM16 at 24 kHz and a picture, and prints what the first answer was, as JSON.
"""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
from livekit import rtc
from livekit.plugins.openai.realtime import RealtimeModel
from PIL import Image


async def main(url: str, token: str, sound: str, picture: str) -> None:
    model = RealtimeModel(base_url=url, api_key=token, model="wan-streamer")
    session = model.session()
    generations, errors = asyncio.Queue(), []
    session.on("generation_created", generations.put_nowait)
    session.on("error", lambda error: errors.append(str(error)))
    await session.update_instructions("You are a helpful assistant.")
    pixels = np.asarray(Image.open(picture).convert("RGBA"))
    height, width, _ = pixels.shape
    session.push_video(rtc.VideoFrame(width, height, rtc.VideoBufferType.RGBA, pixels.tobytes()))
    samples = Path(sound).read_bytes()
    for start in range(0, len(samples), 9600):
        piece = samples[start : start + 9600]
        session.push_audio(rtc.AudioFrame(piece, 24_000, 1, len(piece) // 2))
    generation = await generations.get()
    async for message in generation.message_stream:
        num_bytes = sum([len(frame.data) * 2 async for frame in message.audio_stream])
        transcript = "".join([text async for text in message.text_stream])
        print(json.dumps({"numBytes": num_bytes, "transcript": transcript, "errors": errors}))
    await session.aclose()
    await model.aclose()


asyncio.run(main(*sys.argv[1:]))
