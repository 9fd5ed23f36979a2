#!/bin/sh
exec make -C "$(dirname "$0")" test-live BACKEND="${BACKEND:-local}"
