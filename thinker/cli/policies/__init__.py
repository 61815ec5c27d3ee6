"""Subcommands about policies as files: conversion, adapters, cards, the hub."""
