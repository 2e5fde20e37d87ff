// Reads lines of targets; has a client for each until the next line, and answers when all have been looked up.
const readline = require("readline");
const grpc = require("@grpc/grpc-js");
require("@grpc/grpc-js-xds").register();

// Some connect to addresses where nobody is: by then they have been told of them.
const PATIENCE = 150;

// An update that comes while a client is closed finds its resolver without its parts: that is the library's own, and
// nothing of what was sent.
process.on("uncaughtException", (error) => {
  if (error.message.includes("addClusterSubscription")) return;
  console.error(error);
  process.exit(1);
});

function lookedUp(client) {
  return new Promise((resolve) => {
    const end = Date.now() + PATIENCE;
    const channel = client.getChannel();
    const look = () => {
      const state = channel.getConnectivityState(true);
      const settled = state === grpc.connectivityState.READY || state === grpc.connectivityState.TRANSIENT_FAILURE;
      if (settled || Date.now() >= end) return resolve();
      channel.watchConnectivityState(state, end, look);
    };
    look();
  });
}

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const targets = line.split(" ").filter((target) => target);
    const clients = targets.map((target) => new grpc.Client(target, grpc.credentials.createInsecure()));
    await Promise.all(clients.map(lookedUp));
    console.log("looked up");
    clients.forEach((client) => client.close());
  }
  process.exit();
})();
