'use strict';
// n8n serves its metrics to everyone who reaches its port. With this hook they are for whoever has the key, of which n8n knows only the
// digest. A hook that throws ends n8n: better no n8n than an open door.
const { createHash, timingSafeEqual } = require('node:crypto');

const DIGEST = Buffer.from(process.env.EVERLOOP_METRICS_KEY_SHA256 ?? '', 'hex');

function guard(request, response, next) {
  const [scheme, key] = (request.headers.authorization ?? '').split(' ');
  const given = createHash('sha256')
    .update(key ?? '')
    .digest();
  if (scheme === 'Bearer' && timingSafeEqual(given, DIGEST)) return next();
  return response.status(401).set('www-authenticate', 'Bearer').json({ error: 'metrics ask for a key' });
}

module.exports = {
  n8n: {
    ready: [
      async (server) => {
        if (DIGEST.length !== 32) throw new Error('EVERLOOP_METRICS_KEY_SHA256 is not a SHA-256');
        server.app.use('/metrics', guard);
        // Before n8n's own route, which stands already.
        const { stack } = server.app.router;
        stack.unshift(stack.pop());
      },
    ],
  },
};
