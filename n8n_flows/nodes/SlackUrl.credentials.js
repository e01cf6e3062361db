'use strict';
// The address of a Slack-compatible incoming webhook is a secret: whoever knows it can post. As a credential it is stored encrypted and
// stands in no flow; it replaces the address of the request that uses it.

class SlackUrl {
  name = 'slackUrl';
  displayName = 'Slack Incoming Webhook';
  properties = [{ displayName: 'URL', name: 'url', type: 'string', typeOptions: { password: true }, default: '', required: true }];

  async authenticate(credentials, request) {
    const { baseURL: _, ...rest } = request;
    return { ...rest, url: credentials.url };
  }
}

module.exports = { SlackUrl };
