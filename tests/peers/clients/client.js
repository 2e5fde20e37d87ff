// Calls a target over and over, and prints every answer that differs from the one before.
const grpc = require("@grpc/grpc-js");
require("@grpc/grpc-js-xds").register();

const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const plain = (bytes) => bytes;
let last;

function call() {
  const deadline = Date.now() + 5000;
  client.makeUnaryRequest("/lateen.Peer/Call", plain, plain, Buffer.alloc(0), { deadline }, (error, bytes) => {
    const answer = error ? `error ${grpc.status[error.code]} ${error.details}` : bytes.toString();
    if (answer !== last) {
      console.log(answer);
      last = answer;
    }
    setTimeout(call, 50);
  });
}
call();
