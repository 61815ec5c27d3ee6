"""Files that are read another way than by FFmpeg's plain frames: animated pictures, interlaced
videos, and what decord gives."""
