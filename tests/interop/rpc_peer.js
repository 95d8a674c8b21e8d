// A peer that speaks MessagePack-RPC by the client of Neovim (npm neovim, with
// @msgpack/msgpack), over plain TCP, for test_rpc_peer.py.
//
//   node rpc_peer.js listen
//   node rpc_peer.js dial PORT
//
// It serves a few methods, and calls what it is asked to call.  What happens is told as
// JSON, a line each.
'use strict'

const net = require('net')
const { Transport } = require('neovim/lib/utils/transport')

function tell(what) {
  process.stdout.write(JSON.stringify(what) + '\n')
}

// Neovim's own types are of no use here, and its errors are [kind, message].
const METHODS = {
  echo: ([value]) => value,
  add: ([a, b]) => a + b,
  size: ([bytes]) => bytes.length,
  fail: ([message]) => {
    throw [0, message]
  },
  refuse: ([message]) => {
    throw message
  }
}

function attach(socket) {
  const transport = new Transport()
  transport.on('request', (method, args, response) => {
    if (method === 'relay') {
      // Call the other side, and answer with what came of it.
      transport.request(args[0], args[1], (error, result) => {
        response.send([error === null, JSON.stringify(error === null ? result : error)])
      })
      return
    }
    if (method === 'flood') {
      // Many calls at once; the sum of the answers.
      let left = args[0]
      let sum = 0
      for (let i = 0; i < args[0]; i++) {
        transport.request('add', [i, 1], (error, result) => {
          sum += error === null ? result : NaN
          if (--left === 0) response.send(sum)
        })
      }
      return
    }
    if (!(method in METHODS)) return response.send(`no method ${method}`, true)
    try {
      response.send(METHODS[method](args))
    } catch (error) {
      response.send(error, true)
    }
  })
  transport.on('notification', (method, args) => {
    tell({ event: 'notified', method, args })
    transport.notify('heard', args)
  })
  transport.on('detach', () => tell({ event: 'ended' }))
  socket.on('error', error => tell({ event: 'error', error: String(error.message) }))
  transport.attach(socket, socket)
  tell({ event: 'connected' })
}

const [role, port] = process.argv.slice(2)
if (role === 'listen') {
  const server = net.createServer(attach)
  server.listen(0, '127.0.0.1', () => tell({ event: 'listening', port: server.address().port }))
} else {
  const socket = net.connect(Number(port), '127.0.0.1', () => attach(socket))
}
