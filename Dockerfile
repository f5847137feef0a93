# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /src

# The dependencies first, with an empty program: they are built again only when
# Cargo.toml, Cargo.lock or how they are built changes.
COPY Cargo.toml Cargo.lock ./
COPY crates crates
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --no-default-features --features otlp \
    && rm -r src

# Without the sandbox: production has a Nango and a PostgreSQL. The files may be
# older than the empty program, which cargo goes by.
COPY . .
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --no-default-features --features otlp

# The C library, the certificates that calls to Nango are verified with, and
# nothing else: no shell, no package manager.
FROM gcr.io/distroless/cc-debian12
COPY --from=build /src/target/release/patchbay /usr/local/bin/patchbay
# "nonroot", by number so that a cluster can tell that it is not root.
USER 65532:65532
ENV PORT=8000
EXPOSE 8000
# Whether the process runs. Whether it can do its work is /readyz, for who sends it requests.
# A start may wait for the database, and migrate it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["/usr/local/bin/patchbay", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/patchbay"]
CMD ["serve"]
