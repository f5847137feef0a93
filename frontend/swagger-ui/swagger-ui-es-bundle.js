// Left out of the program: its page loads swagger-ui-bundle.js.
