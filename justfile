# Recipes call the scripts, which also work without just.

# List the recipes.
default:
    @just --list

# Run Patchbay with a fake Nango and a private PostgreSQL at http://localhost:8000.
sandbox:
    cargo run -- sandbox

# Run everything that CI runs.
check:
    scripts/check

# Lint the documents and count words to avoid.
prose:
    scripts/words
    scripts/prose/check

# Run the Rust tests whose names contain a filter.
test *filter:
    cargo test --locked -- {{filter}}

# Run the Rust tests several times in random order and list those whose result differs.
repeat runs *arguments:
    scripts/repeat {{runs}} {{arguments}}

# Measure the release build against its baselines. Needs an idle machine.
bench *arguments:
    scripts/bench {{arguments}}

# Send load while faults are switched on, then compare the database with Nango.
soak *arguments:
    scripts/soak {{arguments}}

# Kill the service at random points, then check the invariants.
crash *arguments:
    scripts/crash {{arguments}}

# Run the release build under failure, then check the invariants.
faults *arguments:
    scripts/faults {{arguments}}

# Fuzz the parsers.
fuzz *arguments:
    scripts/fuzz {{arguments}}

# Measure test coverage.
coverage:
    scripts/coverage
